"""Fills the tables of README.md and DATASET_CARD.md from the JSON files that measuring commands wrote.

A table stands between `<!-- name -->` and `<!-- /name -->`; the function of that name below writes it, from one file.

    python fill_readme.py            fills them
    python fill_readme.py --check    exits 1 if the documents and the files disagree
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path

from jsonl import read_jsonl, write_whole
from terminal import Problem, run, say


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
            ["the same margin, adapter merged into bf16 as for decoding",
             f"{load('results/trained_model.json')['held_out']['reward_margin']:.3f}"],
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


def dataset() -> str:
    """The seed's statistics block and the coverage, as check_dataset.py found them."""
    result = load("results/dataset.json")
    figures = result["statistics"]
    block = "\n".join(("Dataset statistics:", f"Total pairs: {figures['pairs']}",
                       f"Avg chosen length: {figures['mean_chosen']:.0f} chars",
                       f"Avg rejected length: {figures['mean_rejected']:.0f} chars",
                       f"Length ratio (c/r): {figures['ratio']:.2f}x",
                       f"Near-duplicate prompts: {figures['near_duplicates']} (verified with 12-word key deduplication)"))
    rows = [[field.replace("_", " "), ", ".join(f"{value} {count}" for value, count in counts.items())]
            for field, counts in result["coverage"].items()]
    shares = result["naming"]
    return (f"```\n{block}\n```\n\n{table(['field', 'rows'], rows)}\n\nA tool, setting or standard from the checker's list is "
            f"named in {percent(shares['chosen'])} of the chosen and {percent(shares['rejected'])} of the rejected answers. "
            f"Always choosing the longer answer is right in {percent(result['longer_is_chosen'])} of the pairs.")


def review() -> str:
    """What the second readers changed before the import, and what the later fact check of 100 rows found."""
    changes = list(read_jsonl("results/dataset_review.jsonl"))
    facts = list(read_jsonl("results/dataset_fact_check.jsonl"))
    verdicts = Counter(row["verdict"] for row in facts)
    kinds = Counter(row["kind"] for row in changes)
    return (f"The second readers changed {len({row['id'] for row in changes})} of the 985 rows "
            f"({', '.join(f'{kind} {count}' for kind, count in kinds.most_common())} changes). "
            f"Of {len(facts)} rows then drawn with seed 985 and read against public documentation, "
            f"{verdicts['supported']} were supported, {verdicts['unverified']} could be neither confirmed nor refuted, and "
            f"{verdicts['wrong']} held an error, which was mended.")


TABLES = {"README.md": (claim, demo, training, paired, benchmark), "DATASET_CARD.md": (dataset, review)}


def fill(file: str) -> str:
    """Returns the text of `file` with every table of it rewritten.

    Raises:
        Problem: a table's markers are not in the file.
    """
    text = Path(file).read_text(encoding="utf-8")
    for write in TABLES[file]:
        name = write.__name__
        markers = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not markers.search(text):
            raise Problem(f"{file} has no <!-- {name} --> … <!-- /{name} -->. Put the markers back.")
        try:
            body = write()
        except FileNotFoundError as fault:
            body = f"*Not measured yet: `{fault.filename}` is missing.*"
        text = markers.sub(lambda found, body=body: f"{found[1]}{body}\n{found[2]}", text)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a document would change")
    args = parser.parse_args()
    stale = 0
    for file in TABLES:
        filled = fill(file)
        if not args.check:
            write_whole(Path(file), filled)
        elif filled != Path(file).read_text(encoding="utf-8"):
            stale = 1
            say(f"{file} disagrees with results/. Run make results.")
    return stale


if __name__ == "__main__":
    run(main)
