"""What an audit found, as text."""

import pandas as pd


def format_audit(found: dict) -> str:
    """Return what `audit.audit` found as plain-text tables."""
    splits = pd.DataFrame([_split_row(name, of) for name, of in found["splits"].items()])
    within, across = (
        pd.DataFrame(
            [_copies_row(found, where, name, counted) for name in found["id_clashes"][where]]
        )
        for where, counted in (("within", "copies"), ("across", "patches"))
    )
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


def _copies_row(found, where, name, counted):
    """Return a row on the copies `within` a split or `across` two."""
    exact, near = (found[key][where][name] for key in ("exact_duplicates", "near_duplicates"))
    return {
        where: name,
        "exact groups": exact["groups"],
        f"exact {counted}": exact[counted],
        "near groups": near["groups"],
        f"near {counted}": near[counted],
        "id clashes": found["id_clashes"][where][name],
    }
