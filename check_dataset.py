"""Checks a file of preference pairs: size, lengths, coverage, repetition, leaks, and whether answers name real things.

    python check_dataset.py                   dpo_clean.jsonl against the thresholds below
    python check_dataset.py pairs.jsonl --rows 200

Exits 1 when a check fails, and names the check and the rows.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from clean_dataset import CATEGORIES, FIELDS, SIMILAR, read_evaluation_prompts, seed_key, similar_pairs
from data_generation import DISABILITIES, QUERY_TYPES, TASKS, USERS
from jsonl import BadLine, read_jsonl
from terminal import Problem, put_json, run, say

ROWS = 985
CHOSEN_MEAN = (525, 585)        # characters: 555 ± 30
REJECTED_MEAN = (261, 301)      # characters: 281 ± 20
RATIO = (1.87, 2.07)            # mean chosen / mean rejected: 1.97 ± 0.1
FRAME_SHARE = 0.02              # of the rows may begin with the same three words
RUN_WORDS, RUN_ROWS = 8, 5      # eight words in a row may stand in the chosen answers of five rows
CHOSEN_NAMING = 0.95            # at least this share of chosen answers names a tool or standard
REJECTED_NAMING = 0.05          # at most this share of rejected answers does


# --- what an answer can name ------------------------------------------------------------------------------------------

INSIDE = r"(?<=[\w,] )"  # not the first word of a sentence: there every word has a capital


def vocabulary(listed: str) -> dict[str, re.Pattern]:
    """Reads `Name`, `Name*` or `Name = regular expression`, separated by semicolons, into whole-word patterns.

    Capitals count, for Orca, Fusion and WAVE are words too. A starred name is so common a word (Zoom, Reminders) that it
    counts only inside a sentence; so does the spelling "Sticky keys" of "Sticky Keys".
    """
    patterns = {}
    for entry in filter(None, (entry.strip() for entry in listed.replace("\n", " ").split(";"))):
        name, _, pattern = (part.strip() for part in entry.partition(" = "))
        if not pattern:
            literal = re.escape(name.rstrip("*"))
            sentence_case = re.sub(r"(?<= )[A-Z](?=[a-z])", lambda capital: capital[0].lower(), literal)
            pattern = INSIDE + literal if name.endswith("*") else f"{literal}|{INSIDE}{sentence_case}"
        patterns[name.rstrip("*")] = re.compile(rf"(?<![\w-])(?:{pattern})s?(?!\w)")
    return patterns


TOOLS = vocabulary(r"""
    NVDA; JAWS; VoiceOver; TalkBack; Narrator; Orca; ChromeVox; BrailleBack; BRLTTY; Vispero; Fusion; eSpeak;
    Speech Viewer; Braille Viewer; Screen Curtain; BrailleSense; BrailleNote; Brailliant; Mantis;
    Focus braille display = Focus (?:14|40|80)(?: Blue)?; Orbit Reader; Orbit Writer; Perkins Brailler = Perkins;
    Duxbury; Liblouis; PenFriend; BARD; Bookshare; DAISY; Seeing AI; Be My Eyes; Envision*; OrCam; Lookout; KNFB Reader;
    Victor Reader; BlindSquare; Soundscape; Aira; Wayaround = (?i:wayaround); Java Access Bridge = Access Bridge;
    MathCAT; MathType;

    ZoomText; SuperNova; Windows Magnifier = Magnifier|Magnify\.exe; MAGic; Zoom*;
    Color Filters = Colou?r Filters|(?<=[\w,] )Colou?r filters; High Contrast;
    Contrast Themes = Contrast [Tt]hemes?|forced-colors; Increase Contrast;
    Color Correction = Colou?r Correction|(?<=[\w,] )Colou?r correction;
    Differentiate Without Color = Differentiate [Ww]ithout [Cc]olou?r; Night Light; Night Shift; Dark Mode; Reader View;
    Text Size; Larger Text; Bold Text; TextScaleFactor; Live Text; Color Oracle; Coblis; Sim Daltonism; Color Blind Pal;
    Stark*; Okabe-Ito; ColorBrewer; Viz Palette; Cividis = (?i:cividis); Viridis = (?i:viridis); EnChroma;
    Colour Contrast Analyser = Colou?r Contrast Analy[sz]er|CCA; ColorADD; Topaz = Topaz|ClearView|MagniLink;
    Daltonize = (?i:daltoni[sz]e\w*); Invert Colors = (?:Smart )?Invert(?: Colou?rs)?; Color Enhancer;

    Dragon; Voice Access; Voice Control; Voice Typing; Windows Speech Recognition;
    Dictation = (?<=[\w,] )(?:Dictation|Dictate); Talon; Cursorless; Voiceitt; Siri; Alexa; Google Assistant;
    Vocal Shortcuts; Personal Voice; Live Speech; Project Relate; Copilot; Type to Siri;

    Switch Control; Switch Access; AssistiveTouch; Guided Access; Assistive Access; Single App Mode;
    Touch Accommodations; Accessibility Shortcut; Back Tap; Hold Duration; Ignore Repeat; Tap Assistance;
    Dwell Control = Dwell (?:Control|[Cc]lick\w*); Sticky Keys = Sticky ?[Kk]eys; Filter Keys = Filter ?[Kk]eys;
    Slow Keys = Slow ?[Kk]eys; Bounce Keys = Bounce ?[Kk]eys; Mouse Keys = Mouse ?[Kk]eys;
    Toggle Keys = Toggle ?[Kk]eys; ClickLock = Click ?Lock; Snap To; Enhance Pointer Precision; Hover Over Keys;
    On-Screen Keyboard = On-[Ss]creen [Kk]eyboard|Accessibility Keyboard; Eye Control; Eye Tracking;
    Full Keyboard Access; Head Tracking = Head Tracking|Head Pointer; Shake to Undo; Key Repeat; Pointer Control;
    Facial Gestures; SteadyMouse; Smart-Nav; AMAneo; Quha Zono = Zono; GlassOuse = (?i:glassouse); HeadMouse;
    Camera Mouse; QuadStick; BIGtrack; Kensington; Logitech Ergo; TrackballWorks; KensingtonWorks; Tecla; Blue2;
    Buddy Button; Jelly Bean; AbleNet; Pretorian; Hook*; Xbox Adaptive Controller;
    Adaptive Controller = (?:Access|Adaptive) [Cc]ontroller; Stream Deck; JoyToKey; X-keys; Maltron; BigKeys; Clevy;
    Keyguard = [Kk]eyguard; Tobii; PCEye; TD I-Series = (?:TD )?I-(?:Series|13|16); TD Pilot; TD Control; TD Talk;
    TD Snap = TD Snap|Snap Core First; Communicator 5; Grid 3 = Grid 3|Grid for iPad; Grid Pad; OptiKey; Smartbox;
    Rehadapt; Look to Learn; EyeGaze = (?i:eyegaze); Proloquo2Go; Proloquo4Text; TouchChat; LAMP; Predictable*;
    CoughDrop; PODD; E-Tran = E-[Tt]ran; ModelTalker; Acapela; SpeakBook; Clicker*; Choiceworks; Widgit; Boardmaker;
    R-net;

    Live Captions = Live Captions?|(?<=[\w,] )Live captions?; Live Transcribe; Otter; Ava*; CART; StreamText;
    InnoCaption; CapTel; Sound Recognition; Sound Notifications;
    LED flash = LED [Ff]lash|Flash for Alerts|Flash [Nn]otifications; Mono Audio = Mono [Aa]udio;
    RTT = RTT|[Rr]eal-[Tt]ime [Tt]ext|Real-time text; TTY; Roger; Phonak; LE Audio; Auracast;
    Telecoil = [Tt]elecoil|T-coil|[Hh]earing loop|[Ii]nduction loop; ConnectClip; Bellman; VRS = VRS|[Vv]ideo relay;
    Made for iPhone; Subtitle Edit; Amara; Panopto; YouTube Studio; iCanConnect; Hearing Devices;
    Headphone Accommodations; Sorenson; Convo*; Relay UK; SignVideo; Ampetronic; Contacta;

    Read&Write; Immersive Reader; ClaroRead; Claro = ClaroPDF|ClaroSpeak; Kurzweil; Speechify; Voice Dream;
    NaturalReader; Read Aloud; Speak Screen; Speak Selection; Select to Speak = Select[- ]to[- ][Ss]peak;
    Spoken Content; Reading Coach; Line Focus; OpenDyslexic; Ghotit; Helperbird; C-Pen; ReadingPen; Texthelp; Everway;
    EasyReader; Learning Ally; Microsoft Editor; Grammarly; Hemingway Editor; Book Creator; AppReader;
    Co:Writer = Co:Writer|Co-Writer; SnapType; Screen Mask = Screen [Mm]ask\w*; Ginger*; Sonocent = Sonocent|Glean;
    MindView; Inspiration*; Equatio = Equat[Ii][Oo];

    Tiimo; Goblin Tools; Magic ToDo; Focusmate; Todoist; Microsoft To Do; Time Timer;
    Freedom = (?<=[\w,] )Freedom(?! of| to| Scientific); Cold Turkey;
    Focus session = Focus (?:[Ss]essions?|[Aa]ssist|[Mm]ode)|(?:Windows|Work|Apple) Focus; Do Not Disturb; Screen Time;
    Viva Insights; Forest*; Google Calendar; Google Tasks; Outlook; OneNote; Planner*; Trello; Notion*; Asana; Inflow*;
    Brain.fm; Alarmy; Reminders*; MagnusCards; RescueTime; Medisafe; Canvas*; LeechBlock; uBlock Origin; StayFocusd;
    Zen Mode = Zen Mode|zenMode; Apple Watch; Stretchly; Amazing Marvin; Structured*; BIG Launcher;

    axe = axe|Axe DevTools; WAVE; Accessibility Insights; Lighthouse; Pa11y = [Pp]a11y; browser DevTools = DevTools;
    PAC; Accessibility Checker; Acrobat; ARC Toolkit; ANDI; Siteimprove; Accessibility Inspector; Accessibility Scanner;
    jest-axe; Playwright; Storybook; eslint-plugin-jsx-a11y; UI Automation = UI Automation|UIA; AT-SPI;
    MSAA = MSAA|IAccessible2; ColorZilla; WhoCanUse; Figma; TPGi; Deque; CommonLook;
    VS Code = VS Code|Visual Studio Code; Stylus*; Ace by DAISY; Epubcheck; ABBYY FineReader = FineReader;

    Intune; Jamf; Group Policy = Group Polic(?:y|ies)|GPO; Configuration Manager = SCCM|MECM|Configuration Manager;
    Company Portal; Apple Business Manager; Apple School Manager;
    Google Admin = Google Admin|Admin console|Google Workspace; Mosyle; Kandji; Workspace ONE; Android Enterprise;
    Managed Google Play; Citrix; FSLogix; Remote Desktop = RDP|Remote Desktop;
    Azure Virtual Desktop = Azure Virtual Desktop|AVD|VDI; Entra; Windows Hello; Autopilot; PowerShell; Assigned Access;
    PPPC; ExtensionInstallForcelist; systemConfig; Chrome Enterprise; Windows Backup; Enterprise State Roaming;
    Ease of Access = Ease of Access|Accessibility settings; Registry keys = HKCU|HKLM|HKEY_\w+;

    Microsoft Teams = Microsoft Teams|(?<=[\w,] )Teams; Microsoft Word = Microsoft Word|(?<=[\w,] )Word; PowerPoint;
    Excel*; Google Docs; Google Slides; Google Classroom; Google Meet; Gboard; SwiftKey; Slack*; Scratch*; Echo Show;
    Hue*; Home Assistant; Drop In; Kindle; Libby; Dolphin*; HumanWare; Freedom Scientific; Eschenbach; Dycem;
    SpecialEffect; AbleGamers;
""")

STANDARDS = vocabulary(r"""
    WCAG = WCAG(?:2ICT)?|[1-4]\.\d\.\d{1,2} [A-Z][a-z]+|(?:SC|[Ss]uccess [Cc]riteri(?:on|a)) \d\.\d(?:\.\d+)?;
    EN 301 549; numbered clause = [Cc]lauses? \d+(?:\.\d+)+; Section 508; Section 504; Section 255;
    ADA = ADA|Americans with Disabilities Act; IDEA = IDEA|Individuals with Disabilities Education Act; CVAA;
    ACAA = Air Carrier Access Act;
    European Accessibility Act = European Accessibility Act|EAA|Directive \(?EU\)? 2019/882;
    Web Accessibility Directive; Equality Act; AODA; Accessible Canada Act;
    Public Sector Bodies Accessibility Regulations = (?:PSBAR|Public Sector Bodies[\w ,()]*Regulations); HHS rule = HHS;
    FCC rules = FCC; 36 CFR 1194 = 36 CFR(?: Part)? 1194|E20\d(?:\.\d+)*; ARIA = (?:WAI-)?ARIA|aria-\w+; ATAG; UAAG;
    COGA = COGA|Making Content Usable|Cognitive and Learning Disabilities; VPAT;
    ACR = ACR|Accessibility Conformance Report; ITI; PDF/UA = PDF/UA|ISO 14289; EPUB Accessibility; ISO 9241; ISO 24495;
    ISO 30071 = ISO(?:/IEC)? 30071; ISO 13485; ISO 14971; ISO 9999; ISO 7176; IEC 62366; IEC 60118; IEC 60601; RFC 4103;
    T.140; WebVTT; SMPTE-TT; Easy Read; UEB = UEB|Unified English Braille; Nemeth; BANA; MathML; DCB1605; JCQ;
    UN CRPD = CRPD; MDR = MDR|Medical Device Regulation; HAC = HAC|[Hh]earing [Aa]id [Cc]ompatib\w+; BS 8878; NIMAS;
""")


def named(text: str) -> list[str]:
    """The tools and standards that `text` names, in the order of the lists."""
    return [name for name, pattern in (TOOLS | STANDARDS).items() if pattern.search(text)]


# --- the checks -------------------------------------------------------------------------------------------------------

def finding(check: str, passed: bool, found: str, wanted: str, ids: Iterable[str] = ()) -> dict:
    """One line of the verdict; `ids` are the rows to mend."""
    return {"check": check, "passed": passed, "found": found, "wanted": wanted, "rows": [] if passed else list(ids)}


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def check_rows(rows: list[dict], expected: int) -> dict:
    return finding("row count", len(rows) == expected, str(len(rows)), str(expected))


def check_ids(rows: list[dict]) -> dict:
    repeated = [id for id, count in Counter(row["id"] for row in rows).items() if count > 1]
    return finding("unique ids", not repeated, f"{len(repeated)} repeated", "none", repeated)


def check_mean(rows: list[dict], side: str, bounds: tuple[int, int]) -> dict:
    """The rows named are those that pull the mean away most."""
    mean = statistics.mean(len(row[side]) for row in rows)
    pull = -1 if mean > bounds[1] else 1
    furthest = sorted(rows, key=lambda row: pull * len(row[side]))
    return finding(f"mean length of {side}", bounds[0] <= mean <= bounds[1], f"{mean:.1f} characters",
                   f"{bounds[0]} to {bounds[1]}", [row["id"] for row in furthest[:10]])


def check_ratio(rows: list[dict]) -> dict:
    ratio = length_ratio(rows)
    return finding("length ratio", RATIO[0] <= ratio <= RATIO[1], f"{ratio:.3f}", f"{RATIO[0]} to {RATIO[1]}")


def check_rotation(rows: list[dict]) -> dict:
    cells = set(itertools.product(DISABILITIES, USERS, TASKS))
    missing = sorted(cells - {(row["disability"], row["user_type"], row["task_type"]) for row in rows})
    example = f"; missing, for one: {' × '.join(missing[0])}" if missing else ""
    return finding("cells of the rotation", not missing, f"{len(cells) - len(missing)}{example}", f"all {len(cells)}")


def check_categories(rows: list[dict]) -> dict:
    strays = [row["id"] for row in rows if any(row[field] not in values for field, values in CATEGORIES.items())]
    return finding("categories from the rotation's lists", not strays, f"{len(strays)} rows with another", "none", strays)


def check_query_types(rows: list[dict]) -> dict:
    present = [kind for kind in QUERY_TYPES if any(row["query_type"] == kind for row in rows)]
    return finding("query types", len(present) == len(QUERY_TYPES), ", ".join(present) or "none", ", ".join(QUERY_TYPES))


def check_openings(rows: list[dict], field: str) -> dict:
    """A sentence frame is the first three words in lower case. Twice is no pattern, however few the rows."""
    frames = defaultdict(list)
    for row in rows:
        frames[" ".join(words(row[field])[:3])].append(row["id"])
    frame, ids = max(frames.items(), key=lambda item: len(item[1]))
    return finding(f"sentence frames of {field}", len(ids) <= max(2, FRAME_SHARE * len(rows)),
                   f"{len(ids)} begin with '{frame}'", f"at most {FRAME_SHARE:.0%} of rows", ids)


def check_runs(rows: list[dict]) -> dict:
    """A run that contains the name of a tool or standard does not count: one cannot rephrase a name."""
    runs: dict[tuple, dict[str, str]] = defaultdict(dict)  # the run → {row id: the run as written there}
    for row in rows:
        places = list(re.finditer(r"[\w']+", row["chosen"]))
        for first, last in zip(places, places[RUN_WORDS - 1:], strict=False):
            written = row["chosen"][first.start():last.end()]
            runs[tuple(words(written))].setdefault(row["id"], written)
    repeated = [(run, places) for run, places in runs.items()
                if len(places) > RUN_ROWS and not any(map(named, places.values()))]
    run, ids = max(repeated, key=lambda item: len(item[1]), default=((), {}))
    found = f"'{' '.join(run)}' in {len(ids)} rows" if ids else "none"
    return finding(f"{RUN_WORDS}-word runs in more than {RUN_ROWS} chosen", not ids, found, "none", ids)


def key_duplicates(rows: list[dict]) -> list[str]:
    """The ids of rows whose prompt has the seed's 12-word key of an earlier one."""
    first: dict[str, str] = {}
    return [row["id"] for row in rows if first.setdefault(seed_key(row["prompt"]), row["id"]) != row["id"]]


def check_keys(rows: list[dict]) -> dict:
    ids = key_duplicates(rows)
    return finding("near-duplicate prompts by 12-word key", not ids, str(len(ids)), "0", ids)


def check_similar(rows: list[dict]) -> dict:
    prompts = [row["prompt"] for row in rows]
    pairs = [(left, right) for left, right in similar_pairs(prompts, prompts) if left < right]
    ids = [f"{rows[left]['id']}~{rows[right]['id']}" for left, right in pairs]
    return finding(f"prompt pairs with token-set similarity ≥ {SIMILAR}", not ids, str(len(ids)), "0", ids)


def check_leaks(rows: list[dict], evaluation_prompts: list[str]) -> dict:
    pairs = similar_pairs([row["prompt"] for row in rows], evaluation_prompts) if evaluation_prompts else []
    ids = sorted({rows[left]["id"] for left, _ in pairs})
    return finding("prompts that leak into the evaluation sets", not ids, str(len(ids)), "0", ids)


def check_chosen_naming(rows: list[dict], names: list[list[str]]) -> dict:
    mute = [row["id"] for row, found in zip(rows, names, strict=True) if not found]
    share = 1 - len(mute) / len(rows)
    return finding("chosen that name a tool or standard", share >= CHOSEN_NAMING,
                   f"{share:.2%}", f"at least {CHOSEN_NAMING:.0%}", mute)


def check_rejected_naming(rows: list[dict], names: list[list[str]]) -> dict:
    specific = [row["id"] for row, found in zip(rows, names, strict=True) if found]
    share = len(specific) / len(rows)
    return finding("rejected that name one", share <= REJECTED_NAMING,
                   f"{share:.2%}", f"at most {REJECTED_NAMING:.0%}", specific)


# --- the report -------------------------------------------------------------------------------------------------------

def length_ratio(rows: list[dict]) -> float:
    return sum(len(row["chosen"]) for row in rows) / sum(len(row["rejected"]) for row in rows)


def check(rows: list[dict], evaluation_prompts: list[str], expected_rows: int = ROWS) -> dict:
    """Everything known of the rows: the verdict of every check, then statistics, coverage, names and length bias."""
    chosen_names = [named(row["chosen"]) for row in rows]
    rejected_names = [named(row["rejected"]) for row in rows]
    checks = [
        check_rows(rows, expected_rows), check_ids(rows),
        check_mean(rows, "chosen", CHOSEN_MEAN), check_mean(rows, "rejected", REJECTED_MEAN), check_ratio(rows),
        check_categories(rows), check_rotation(rows), check_query_types(rows),
        *(check_openings(rows, field) for field in ("prompt", "chosen", "rejected")), check_runs(rows),
        check_keys(rows), check_similar(rows), check_leaks(rows, evaluation_prompts),
        check_chosen_naming(rows, chosen_names), check_rejected_naming(rows, rejected_names),
    ]
    counts = Counter(itertools.chain.from_iterable(chosen_names))
    prompt_lengths = sorted(len(row["prompt"]) for row in rows)
    return {
        "passed": all(result["passed"] for result in checks),
        "checks": checks,
        "statistics": {"pairs": len(rows), "mean_chosen": statistics.mean(len(row["chosen"]) for row in rows),
                       "mean_rejected": statistics.mean(len(row["rejected"]) for row in rows),
                       "ratio": length_ratio(rows), "near_duplicates": len(key_duplicates(rows))},
        "coverage": {field: dict(Counter({value: 0 for value in values}) + Counter(row[field] for row in rows))
                     for field, values in CATEGORIES.items()},
        "chosen_naming": sum(map(bool, chosen_names)) / len(rows),
        "rejected_naming": sum(map(bool, rejected_names)) / len(rows),
        "tools": {name: count for name, count in counts.most_common() if name in TOOLS},
        "standards": {name: count for name, count in counts.most_common() if name in STANDARDS},
        "longer_is_chosen": sum(len(row["chosen"]) > len(row["rejected"]) for row in rows) / len(rows),
        "prompt_lengths": {"shortest": prompt_lengths[0], "longest": prompt_lengths[-1],
                           "mean": statistics.mean(prompt_lengths), "median": statistics.median(prompt_lengths),
                           "deviation": statistics.pstdev(prompt_lengths)},
    }


def print_report(report: dict, out) -> None:
    """The seed's statistics block, then what else the report holds, as plain text."""
    figures, prompts = report["statistics"], report["prompt_lengths"]
    print("Dataset statistics:",
          f"Total pairs: {figures['pairs']}",
          f"Avg chosen length: {figures['mean_chosen']:.0f} chars",
          f"Avg rejected length: {figures['mean_rejected']:.0f} chars",
          f"Length ratio (c/r): {figures['ratio']:.2f}x",
          f"Near-duplicate prompts: {figures['near_duplicates']} (verified with 12-word key deduplication)",
          sep="\n", file=out)
    print(f"\nPrompt length: {prompts['shortest']} to {prompts['longest']} chars, mean {prompts['mean']:.0f}, "
          f"median {prompts['median']:.0f}, standard deviation {prompts['deviation']:.0f}", file=out)
    print(f"Length bias: choosing the longer answer agrees with {report['longer_is_chosen']:.1%} of the pairs "
          "(50% would be no bias)", file=out)
    for field, counts in report["coverage"].items():
        print_counts(f"Rows per {field.replace('_', ' ')}", counts, out)
    for kind in ("tools", "standards"):
        top = dict(list(report[kind].items())[:20])
        print_counts(f"Chosen answers that name {kind} ({len(report[kind])} different; the commonest)", top, out)
    print("\nChecks", file=out)
    for result in report["checks"]:
        print(f"  {'pass' if result['passed'] else 'FAIL'}  {result['check']}: {result['found']} "
              f"(wanted: {result['wanted']})", file=out)


def print_counts(title: str, counts: dict[str, int], out) -> None:
    print(f"\n{title}", file=out)
    for name, count in counts.items():
        print(f"  {count:>4}  {name}", file=out)


def read_rows(file: Path) -> list[dict]:
    try:
        rows = list(read_jsonl(file, required=FIELDS))
    except FileNotFoundError:
        raise Problem(f"no file {file}. Make it with clean_dataset.py, or name another.") from None
    except BadLine as fault:
        raise Problem(f"{fault}. Mend that line; nothing was checked.") from None
    if not rows:
        raise Problem(f"{file} holds no rows. Make it with clean_dataset.py, or name another.")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=Path("dpo_clean.jsonl"), help="(default %(default)s)")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows expected (default %(default)s)")
    parser.add_argument("--prompts", type=Path, default=Path("prompts"), help="evaluation prompts (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON to FILE, or - for stdout")
    args = parser.parse_args()
    rows = read_rows(args.file)
    try:
        evaluation_prompts = read_evaluation_prompts(args.prompts)
    except BadLine as fault:
        raise Problem(f"{fault}. Mend that line; nothing was checked.") from None
    report = check(rows, evaluation_prompts, args.rows)
    print_report(report, sys.stderr if args.json == "-" else sys.stdout)
    if args.json:
        put_json(report, args.json)
    for result in report["checks"]:
        if not result["passed"]:
            ids = ", ".join(result["rows"][:10]) + (", …" if len(result["rows"]) > 10 else "")
            say(f"failed: {result['check']}: {result['found']}, wanted {result['wanted']}" + (f"; rows {ids}" if ids else ""))
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    run(main)
