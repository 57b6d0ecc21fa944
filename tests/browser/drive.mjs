// node drive.mjs CHROMIUM PAGE FOLDER: opens the page in a headless Chromium, runs axe, presses keys; what it saw is JSON on stdout,
// and a screenshot of every width and colour scheme is in FOLDER.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import puppeteer from "puppeteer-core";

const [chromium, file, folder] = process.argv.slice(2);
const axe = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await puppeteer.launch({ executablePath: chromium, args: ["--no-sandbox", "--disable-gpu"], protocolTimeout: 300000 });
const seen = { messages: [], requests: [], checks: [], keys: {} };

async function open(width, scheme) {
  const page = await browser.newPage();
  page.on("console", (message) => seen.messages.push(message.text()));
  page.on("pageerror", (error) => seen.messages.push(String(error)));
  page.on("dialog", (dialog) => { seen.messages.push(dialog.message()); dialog.dismiss(); });
  page.on("request", (request) => seen.requests.push(request.url()));
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.goto(pathToFileURL(file).href);
  return page;
}

for (const width of [1280, 320]) {
  for (const scheme of ["light", "dark"]) {
    const page = await open(width, scheme);
    await page.evaluate(axe); // not a script of the page: its policy does not reach here
    for (const blocks of ["one", "all"]) {
      if (blocks === "all") await page.click("#all");
      const result = await page.evaluate(() => axe.run());
      const found = result.violations.map((rule) => ({ rule: rule.id, nodes: rule.nodes.map((node) => node.html.slice(0, 200)) }));
      const unsure = result.incomplete.map((rule) => rule.id);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      seen.checks.push({ width, scheme, blocks, found, unsure, wide, passed: result.passes.length });
      if (blocks === "one") await page.screenshot({ path: path.join(folder, `${width}-${scheme}.png`), fullPage: true });
    }
    await page.close();
  }
}

const page = await open(1280, "light");
const shown = () => page.evaluate(() => Array.from(document.querySelectorAll(".step:not([hidden]) h2"), (title) => title.textContent));
const status = () => page.evaluate(() => document.getElementById("status").textContent);
const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.tagName);
const keys = seen.keys;
keys.start = await shown();
await page.keyboard.press("Space");
keys.space = [await shown(), await status()];
await page.keyboard.press("ArrowRight");
keys.right = await shown();
await page.keyboard.press("ArrowRight");
keys.end = await shown();
await page.keyboard.press("ArrowLeft");
keys.left = await shown();
keys.order = [];
for (let press = 0; press < 9; press++) {
  await page.keyboard.press("Tab");
  keys.order.push(await focused());
}
await page.focus("#first");
keys.outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
await page.keyboard.press("Space"); // the button's own
keys.first = [await shown(), await focused(), await page.$eval("#first", (button) => button.getAttribute("aria-disabled"))];
await page.focus("#next");
await page.keyboard.press("Enter");
keys.enter = await shown();
await page.focus("#keys");
await page.keyboard.press("Space");
await page.evaluate(() => document.activeElement.blur());
await page.keyboard.press("ArrowRight");
keys.off = await shown();
await page.click("#keys");
await page.click("#first");
await page.keyboard.press("+");
keys.faster = [await page.$eval("#speed", (speed) => speed.value), await status()];
await page.keyboard.press("-");
await page.focus("#play");
await page.keyboard.press("Enter");
keys.playing = await page.$eval("#play", (button) => button.textContent);
await new Promise((resolve) => setTimeout(resolve, 3000));
keys.played = [await shown(), await status(), await page.$eval("#play", (button) => button.textContent)];
keys.moving = await page.evaluate(() => document.getAnimations().length);
await page.setJavaScriptEnabled(false);
await page.reload();
keys.withoutScript = [await shown(), await page.$eval(".controls", (controls) => getComputedStyle(controls).display)];
await browser.close();
console.log(JSON.stringify(seen));
