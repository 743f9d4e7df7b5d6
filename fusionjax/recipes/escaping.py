"""Text made safe for HTML."""

import html


def escape(text: object) -> str:
    """Makes any text safe to stand in HTML, in an attribute too; what UTF-8 cannot hold becomes a question mark.

    Args:
        text: anything that `str` takes.

    Returns:
        The text with `<`, `>`, `&` and quotes escaped.

    Example:
        >>> escape('<b>"A&B"</b>')
        '&lt;b&gt;&quot;A&amp;B&quot;&lt;/b&gt;'
    """
    return html.escape(str(text).encode("utf-8", "replace").decode("utf-8"), quote=True)
