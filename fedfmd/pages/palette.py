"""The colours of series: the same eight, in the same order, in every figure and on every page.

Okabe and Ito's colours in an order whose neighbours differ in lightness; dash and mark differ as well, so
that a figure can be read in grey and by everybody. Dark pages have lighter shades of the same hues.
"""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#B8860B", "#7F7F7F")
DARK = ("#63B3ED", "#F39B5C", "#4FC79D", "#E5A9CB", "#F2F2F2", "#9AD4F0", "#DCBD4F", "#ABABAB")


def style_sheet() -> str:
    """Return the colours as the variables of a page's style sheet."""

    def variables(colours: tuple[str, ...]) -> str:
        return "".join(f"--s{i}: {colour}; " for i, colour in enumerate(colours))

    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)}}} }}"
    return f":root {{ {variables(COLOURS)}}}\n{dark}\n"
