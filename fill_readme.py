"""Fills the tables of README.md from the JSON files that measuring commands wrote.

A table stands between `<!-- name -->` and `<!-- /name -->`; the function of that name below writes it, from one file.

    python fill_readme.py            fills them
    python fill_readme.py --check    exits 1 if README.md and the files disagree
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from jsonl import write_whole
from terminal import Problem, run, say

README = Path("README.md")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: first column to the left, the others to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def load(file: str) -> dict:
    return json.loads(Path(file).read_text(encoding="utf-8"))


def hardware(result: dict) -> str:
    """The machine and the code behind a result, in one line."""
    about = result["environment"]
    name = about["gpu"]["name"] if about["gpu"] else f"{about['cores']} cores of an {about['processor']} processor"
    packages = about["packages"]
    return (f"Measured on {name}, torch {packages['torch']}, transformers {packages['transformers']}, "
            f"commit {(about['commit'] or 'unknown')[:8]}.")


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


# --- one function a table ---------------------------------------------------------------------------------------------

def demo() -> str:
    result = load("results/demo.json")
    rows = [[run["mode"], str(run["tokens"]), f"{run['seconds']:.1f}", f"{run['tokens_per_second']:.2f}",
             f"{run['speedup']:.2f}×", f"{run['block_efficiency']:.2f}", percent(run["acceptance_rate"]),
             percent(run["expected_acceptance"])] for run in result["runs"]]
    header = ["draft", "tokens", "seconds", "tokens/s", "speed-up", "tokens per block", "accepted/drafted", "mean Σ min(p, q)"]
    return f"{table(header, rows)}\n\nOne prompt, one seed: an example, not a finding. {hardware(result)}"


def claim() -> str:
    """The answer in one sentence, by the test that evaluate_acceptance.py fixed in advance."""
    group = load("results/acceptance.json")["paired"]["at"]
    change = group["changes"]["dpo"]
    low, high = change["interval"]
    verdict = "raised" if low > 0 else "lowered" if high < 0 else "did not measurably change"
    return (f"**On {group['prompts']} assistive-technology prompts, DPO {verdict} the acceptance probability of the draft: "
            f"mean Σ min(p, q) went from {group['means']['base']:.4f} to {group['means']['dpo']:.4f}, a paired change of "
            f"{change['mean']:+.4f} (95% bootstrap interval over prompts {low:+.4f} to {high:+.4f}); it rose on "
            f"{change['rose']} of {group['prompts']} prompts.**")


def paired() -> str:
    result = load("results/acceptance.json")
    rows = []
    for name, group in result["paired"].items():
        for draft, change in group["changes"].items():
            low, high = change["interval"]
            rows.append([name, draft, str(group["prompts"]), f"{group['means']['base']:.4f}", f"{group['means'][draft]:.4f}",
                         f"{change['mean']:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{change['rose']}/{group['prompts']}"])
    header = ["prompts", "draft", "n", "base", "tuned", "change", "95% interval", "rose on"]
    return f"{table(header, rows)}\n\n{hardware(result)}"


def training() -> str:
    result = load("final_adapter/metrics.json")
    held_out, settings = result["held_out"], result["settings"]
    rows = [["pairs trained on / held out", f"{result['rows']['train']} / {result['rows']['held_out']}"],
            ["optimizer steps", str(result["steps"])],
            ["trainable parameters", f"{result['trainable_parameters']:,}"],
            ["minutes", f"{result['seconds'] / 60:.0f}"],
            ["held-out reward accuracy", f"{held_out['eval_rewards/accuracies']:.3f}"],
            ["held-out reward margin", f"{held_out['eval_rewards/margins']:.3f}"],
            ["held-out loss", f"{held_out['eval_loss']:.3f}"]]
    return f"{table([settings['base_model'], 'value'], rows)}\n\n{hardware(result)}"


def benchmark() -> str:
    result = load("results/benchmark.json")
    summary = result["summary"]
    rows = [["transformers `generate`", f"{summary['generate']:.2f}", "1.00", "", "", "", ""],
            ["the same, linear layers packed", f"{summary['generate_packed']:.2f}",
             f"{summary['generate_packed'] / summary['generate']:.2f}", "", "", "", ""],
            ["ours, no draft", f"{summary['ours']:.2f}", f"{summary['ours_over_generate']:.2f}", "1.00", "1.00", "", ""]]
    rows += [[f"ours, K = {row['k']}", f"{row['tokens_per_second']:.2f}", f"{row['over_generate']:.2f}",
              f"{row['over_ours']:.2f}", f"{row['block_efficiency']:.2f}", f"{row['predicted_from_alpha']:.2f}",
              f"{row['predicted_from_blocks']:.2f}"] for row in summary["by_k"]]
    header = ["decoding", "tokens/s", "× generate", "× ours without a draft", "tokens per block", "predicted from α",
              "predicted from blocks"]
    overhead = max(row["overhead_share"] for row in summary["by_k"])
    return (f"{table(header, rows)}\n\nMedians over {result['settings']['prompts']} prompts, "
            f"{result['settings']['max_new_tokens']} new tokens, temperature 0.7. Cost ratio c = {summary['c']:.3f}; "
            f"time outside the two models' forwards at most {overhead:.1%}; peak memory "
            f"{result['peak_memory_bytes']['resident'] / 2**30:.1f} GiB. {hardware(result)}")


TABLES = (claim, demo, training, paired, benchmark)


def fill(text: str) -> str:
    """Returns the README with every table rewritten.

    Raises:
        Problem: a table's markers are not in the README.
    """
    for write in TABLES:
        name = write.__name__
        markers = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not markers.search(text):
            raise Problem(f"README.md has no <!-- {name} --> … <!-- /{name} -->. Put the markers back.")
        try:
            body = write()
        except FileNotFoundError as fault:
            body = f"*Not measured yet: `{fault.filename}` is missing.*"
        text = markers.sub(lambda found, body=body: f"{found[1]}{body}\n{found[2]}", text)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if README.md would change")
    args = parser.parse_args()
    before = README.read_text(encoding="utf-8")
    after = fill(before)
    if args.check:
        if before != after:
            say("README.md disagrees with results/. Run make results.")
        return int(before != after)
    write_whole(README, after)
    return 0


if __name__ == "__main__":
    run(main)
