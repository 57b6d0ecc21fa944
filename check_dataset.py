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
from pathlib import Path

from clean_dataset import CATEGORIES, EVALUATION_PROMPTS, FIELDS, read_evaluation_prompts, seed_key, similar_pairs
from data_generation import DISABILITIES, QUERY_TYPES, TASKS, USERS
from specdec.files import BadLine, read_jsonl
from specdec.terminal import Problem, put_json, run, say

ROWS = 985
CHOSEN_MEAN = (525, 585)  # characters: 555 ± 30
REJECTED_MEAN = (261, 301)  # characters: 281 ± 20
RATIO = (1.87, 2.07)  # mean chosen / mean rejected: 1.97 ± 0.1
FRAME_SHARE = 0.02  # of the rows may begin with the same three words
RUN_WORDS, RUN_ROWS = 8, 5  # eight words in a row may stand in the chosen answers of five rows
CHOSEN_NAMING = 0.95  # at least this share of chosen answers names a tool or standard
REJECTED_NAMING = 0.05  # at most this share of rejected answers does


# --- what an answer can name ------------------------------------------------------------------------------------------

INSIDE = r"(?<=[\w,] )"  # not the first word of a sentence: there every word has a capital


def vocabulary(listed: str) -> dict[str, re.Pattern]:
    """Reads `Name`, `Name*` or `Name = regular expression`, separated by semicolons, into whole-word patterns.

    Capitals count, for Orca, Fusion and WAVE are words too. A starred name is so common a word (Zoom, Reminders) that
    it counts only inside a sentence; so does the spelling "Text size" of "Text Size".
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
    WCAG = WCAG(?:2ICT)?;
    WCAG criterion by number = [1-4]\.\d\.\d{1,2} [A-Z][a-z]+|(?:SC|[Ss]uccess [Cc]riteri(?:on|a)) \d\.\d(?:\.\d+)?;
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


# --- the checks: each returns its faults, row ids where rows are to blame ---------------------------------------------


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def mean_length(rows: list[dict], field: str) -> float:
    return statistics.mean(len(row[field]) for row in rows)


def outside(value: float, bounds: tuple[float, float]) -> list[str]:
    return [] if bounds[0] <= value <= bounds[1] else [f"{value:.2f} is not in {bounds[0]} to {bounds[1]}"]


def mean_faults(rows: list[dict], side: str, bounds: tuple[int, int]) -> list[str]:
    """The rows named are those that pull the mean away most."""
    mean = mean_length(rows, side)
    furthest = sorted(rows, key=lambda row: len(row[side]), reverse=mean > bounds[1])
    fault = outside(mean, bounds)
    return fault and fault + [row["id"] for row in furthest[:9]]


def missing_cells(rows: list[dict]) -> list[str]:
    """Cells of the rotation, and query types, that no row covers."""
    covered = {(row["disability"], row["user_type"], row["task_type"]) for row in rows}
    kinds = {row["query_type"] for row in rows}
    return [" × ".join(cell) for cell in itertools.product(DISABILITIES, USERS, TASKS) if cell not in covered] + [
        f"query type {kind}" for kind in QUERY_TYPES if kind not in kinds
    ]


def commonest_opening(rows: list[dict], field: str) -> tuple[str, list[str]]:
    """The commonest sentence frame, which is the first three words in lower case, and the ids of its rows."""
    frames = defaultdict(list)
    for row in rows:
        frames[" ".join(words(row[field])[:3])].append(row["id"])
    return max(frames.items(), key=lambda item: len(item[1]))


def opening_faults(rows: list[dict], field: str) -> list[str]:
    """Twice is no pattern, however few the rows."""
    frame, ids = commonest_opening(rows, field)
    return [f"'{frame}'", *ids] if len(ids) > max(2, FRAME_SHARE * len(rows)) else []


def repeated_runs(rows: list[dict]) -> list[str]:
    """A run that contains the name of a tool or standard does not count: one cannot rephrase a name."""
    runs: dict[tuple, dict[str, str]] = defaultdict(dict)  # the run → {row id: the run as written there}
    for row in rows:
        places = list(re.finditer(r"[\w']+", row["chosen"]))
        for first, last in zip(places, places[RUN_WORDS - 1 :], strict=False):
            written = row["chosen"][first.start() : last.end()]
            runs[tuple(words(written))].setdefault(row["id"], written)
    return [
        f"'{' '.join(run)}' in {', '.join(places)}"
        for run, places in runs.items()
        if len(places) > RUN_ROWS and not any(map(named, places.values()))
    ]


def key_duplicates(rows: list[dict]) -> list[str]:
    """The ids of rows whose prompt has the seed's 12-word key of an earlier one."""
    first: dict[str, str] = {}
    return [row["id"] for row in rows if first.setdefault(seed_key(row["prompt"]), row["id"]) != row["id"]]


def near_duplicates(rows: list[dict]) -> list[str]:
    """By the seed's key or by token-set similarity."""
    prompts = [row["prompt"] for row in rows]
    return [f"{rows[left]['id']} ~ {rows[right]['id']}" for left, right in similar_pairs(prompts, prompts) if left < right]


def leaks(rows: list[dict], evaluation_prompts: list[str]) -> list[str]:
    pairs = similar_pairs([row["prompt"] for row in rows], evaluation_prompts)
    return sorted({rows[left]["id"] for left, _ in pairs})


# --- the report -------------------------------------------------------------------------------------------------------


def check(rows: list[dict], evaluation_prompts: list[str], expected_rows: int = ROWS) -> dict:
    """The faults by check (none: it passed), then statistics, coverage, names and length bias."""
    names = {side: [named(row[side]) for row in rows] for side in ("chosen", "rejected")}
    naming = {side: sum(map(bool, found)) / len(rows) for side, found in names.items()}
    ratio = mean_length(rows, "chosen") / mean_length(rows, "rejected")
    mute = [row["id"] for row, found in zip(rows, names["chosen"], strict=True) if not found]
    specific = [row["id"] for row, found in zip(rows, names["rejected"], strict=True) if found]
    checks = {
        "number of rows": [] if len(rows) == expected_rows else [f"{len(rows)}, expected {expected_rows}"],
        "unique ids": [id for id, count in Counter(row["id"] for row in rows).items() if count > 1],
        "every category known": [
            row["id"] for row in rows if any(row[field] not in values for field, values in CATEGORIES.items())
        ],
        "every cell of the rotation": missing_cells(rows),
        "mean length of chosen": mean_faults(rows, "chosen", CHOSEN_MEAN),
        "mean length of rejected": mean_faults(rows, "rejected", REJECTED_MEAN),
        "length ratio": outside(ratio, RATIO),
        **{f"openings of {field}": opening_faults(rows, field) for field in ("prompt", "chosen", "rejected")},
        "repeated eight-word runs": repeated_runs(rows),
        "near-duplicate prompts": near_duplicates(rows),
        "leaks from the evaluation prompts": leaks(rows, evaluation_prompts) if evaluation_prompts else [],
        "chosen names a tool or standard": mute if naming["chosen"] < CHOSEN_NAMING else [],
        "rejected names none": specific if naming["rejected"] > REJECTED_NAMING else [],
    }
    counts = Counter(itertools.chain.from_iterable(names["chosen"]))
    lengths = sorted(len(row["prompt"]) for row in rows)
    return {
        "passed": not any(checks.values()),
        "checks": checks,
        "statistics": {
            "pairs": len(rows),
            "mean_chosen": mean_length(rows, "chosen"),
            "mean_rejected": mean_length(rows, "rejected"),
            "ratio": ratio,
            "near_duplicates": len(key_duplicates(rows)),
        },
        "prompt_lengths": {
            "shortest": lengths[0],
            "longest": lengths[-1],
            "mean": statistics.mean(lengths),
            "median": statistics.median(lengths),
            "deviation": statistics.pstdev(lengths),
        },
        "longer_is_chosen": sum(len(row["chosen"]) > len(row["rejected"]) for row in rows) / len(rows),
        "naming": naming,
        "coverage": {
            field: {value: sum(row[field] == value for row in rows) for value in values} for field, values in CATEGORIES.items()
        },
        "tools": {name: count for name, count in counts.most_common() if name in TOOLS},
        "standards": {name: count for name, count in counts.most_common() if name in STANDARDS},
    }


def print_report(report: dict, out) -> None:
    """The seed's statistics block, then what else the report holds, as plain text."""
    figures, prompts, naming = report["statistics"], report["prompt_lengths"], report["naming"]
    print(
        "Dataset statistics:",
        f"Total pairs: {figures['pairs']}",
        f"Avg chosen length: {figures['mean_chosen']:.0f} chars",
        f"Avg rejected length: {figures['mean_rejected']:.0f} chars",
        f"Length ratio (c/r): {figures['ratio']:.2f}x",
        f"Near-duplicate prompts: {figures['near_duplicates']} (verified with 12-word key deduplication)",
        "",
        f"Prompt length: {prompts['shortest']} to {prompts['longest']} chars, mean {prompts['mean']:.0f}, "
        f"median {prompts['median']:.0f}, standard deviation {prompts['deviation']:.0f}",
        f"Length bias: choosing the longer answer agrees with {report['longer_is_chosen']:.1%} of the pairs",
        f"A tool or standard is named in {naming['chosen']:.2%} of chosen and {naming['rejected']:.2%} of rejected",
        sep="\n",
        file=out,
    )
    for field, counts in report["coverage"].items():
        print_counts(f"Rows per {field.replace('_', ' ')}", counts, out)
    for kind in ("tools", "standards"):
        top = dict(list(report[kind].items())[:20])
        print_counts(f"Chosen answers that name {kind} ({len(report[kind])} different; the commonest)", top, out)
    print("\nChecks", file=out)
    for name, faults in report["checks"].items():
        print(f"  {'FAIL' if faults else 'pass'}  {name}", file=out)


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
    parser.add_argument(
        "--prompts",
        type=Path,
        nargs="+",
        default=EVALUATION_PROMPTS,
        metavar="FILE",
        help="evaluation prompts (default: those of study 0)",
    )
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
    for name, faults in report["checks"].items():
        if faults:
            say(f"failed: {name}: {', '.join(faults[:10])}" + (f" and {len(faults) - 10} more" if len(faults) > 10 else ""))
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    run(main)
