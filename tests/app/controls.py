"""What is wrong with the controls of a page in a browser."""


def unnamed(tab):
    """Return what can have the focus but has no name in the browser's accessibility tree."""
    nodes = tab.context.new_cdp_session(tab).send("Accessibility.getFullAXTree")["nodes"]
    return [
        node["role"]
        for node in nodes
        if not node.get("ignored")
        and any(each["name"] == "focusable" for each in node.get("properties", []))
        and not node.get("name", {}).get("value", "").strip()
    ]


def too_small(tab):
    """Return the controls below 24 px; of a labelled one the label counts, which acts alike."""
    return tab.locator("button:visible, a:visible, input:visible, select:visible").evaluate_all(
        """all => all.map(each => each.closest('label, .field') ?? each)
            .filter(each => Math.min(each.offsetWidth, each.offsetHeight) < 24)
            .map(each => each.outerHTML)"""
    )
