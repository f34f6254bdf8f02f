"""What an audit found, as text."""

import pandas as pd


def format_audit(found: dict) -> str:
    """Return what `audit.audit` found as plain-text tables."""
    splits = pd.DataFrame([_split_row(name, of) for name, of in found["splits"].items()])
    within = pd.DataFrame([_within_row(found, split) for split in found["splits"]])
    pairs = found["exact_duplicates"]["across"]
    across = pd.DataFrame([_across_row(found, pair) for pair in pairs])
    conflicts = found["label_conflicts"]
    tables = [table.to_string(index=False) for table in (splits, within, across) if len(table)]
    verdict = (
        f"Label conflicts: {conflicts['groups']} groups of identical patches with different labels "
        f"({conflicts['patches']} patches)."
    )
    return "\n\n".join([*tables, *_group_lines(found), verdict]) + "\n"


def _group_lines(found):
    """Return a sentence on each split's groups and on those of two splits."""
    if "groups" not in found:
        return []
    groups = found["groups"]
    unit, lines = groups["unit"], []
    for split, of in groups["within"].items():
        lines.append(
            f"{split}: {of['groups']} {unit}s with {of['smallest']} to {of['largest']} patches."
            if of["groups"]
            else f"{split}: {unit}s unknown."
        )
    for pair, of in groups["across"].items():
        if of["groups"]:
            lines.append(
                f"{pair} share {of['groups']} {unit}s ({of['patches']} patches): a leak, results "
                "will be too good."
            )
    if not any(of["groups"] for of in groups["across"].values()):
        lines.append(f"No two splits share a {unit}.")
    return ["\n".join(lines)]


def _split_row(name, of):
    return {
        "split": name,
        "patches": f"{of['patches']:,}",
        **{each: f"{of[each]:,}" for each in of["blank"]},
        **{f"blank {each}": f"{count:,}" for each, count in of["blank"].items()},
        "mean R G B": " ".join(f"{value:.1f}" for value in of["channel_mean"]),
        "std R G B": " ".join(f"{value:.1f}" for value in of["channel_std"]),
    }


def _within_row(found, split):
    exact, near = (found[key]["within"][split] for key in ("exact_duplicates", "near_duplicates"))
    return {
        "within": split,
        "exact groups": exact["groups"],
        "exact copies": exact["copies"],
        "near groups": near["groups"],
        "near copies": near["copies"],
        "id clashes": found["id_clashes"]["within"][split],
    }


def _across_row(found, pair):
    exact, near = (found[key]["across"][pair] for key in ("exact_duplicates", "near_duplicates"))
    return {
        "across": pair,
        "exact groups": exact["groups"],
        "exact patches": exact["patches"],
        "near groups": near["groups"],
        "near patches": near["patches"],
        "id clashes": found["id_clashes"]["across"][pair],
    }
