"""What colours of the page's drawings are in the dark: the drawings keep theirs, and styles replace them."""

#: A colour of a drawing → what it is on a dark page.
DARK = {
    # text, lines and edges
    "#1c2733": "#e6ecf2",
    "#5d6b7a": "#a3b2c1",
    "#e4e9ee": "#2b3846",
    "#c3ccd5": "#52626f",
    "#8894a0": "#8e9ba8",
    "#9db8d2": "#5f7f9f",
    "white": "#111a24",
    # verdicts
    "#0a7f53": "#3fc48d",
    "#b3362f": "#f08078",
    # baselines
    "#a9b3bd": "#8a96a2",
    "#5f6d7a": "#93a2b1",
    "#94a0ac": "#b9c4cf",
    "#3c4751": "#6f7f8f",
    # EPs
    "#0b6fcf": "#4c9fee",
    "#5aa9ee": "#8cc6f7",
    "#083f78": "#3f76b8",
    "#8fc7f5": "#c0e0fb",
    "#2f86a6": "#49abcf",
    # others
    "#8e5bb5": "#b384da",
    "#c8445b": "#ea7187",
    "#7d8b2f": "#a5b64a",
    "#3f7cac": "#5f9fd0",
    "#a0643c": "#c98a5f",
}
