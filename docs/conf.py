"""How `make site` makes web pages of README.md, docs/ and the notebooks, as they are committed: nothing is run."""

import json
import re
from pathlib import Path

import mathjax

README = Path(__file__).parent.parent / "README.md"
REPOSITORY = re.search(r"github/([\w.-]+/[\w.-]+)/blob/", README.read_text(encoding="utf-8"))[1]  # see `make links`
SIDE_BAR = """
```{toctree}
:hidden:
:glob:
:caption: The course
notebooks/*
```

```{toctree}
:hidden:
:glob:
:caption: More
docs/*
CONTRIBUTING
```
"""

project = html_title = "Small networks for CIFAR-10"
extensions = ["myst_nb"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "notebooks/*.ipynb"]
exclude_patterns = [".*", "build", "results", "runs"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
linkcheck_ignore = ["https://doi.org/"]  # leads to publishers, who refuse programs
html_theme = "sphinx_book_theme"
html_theme_options = {
    "repository_url": f"https://github.com/{REPOSITORY}",
    "use_repository_button": True,
    "navbar_persistent": [],  # the side bar has the search
    "footer_content_items": [],
}
mathjax_path = "tex-svg.js"  # a copy in the site, so that formulas need no other server
html_static_path = ["site.css", str(Path(mathjax.__file__).parent / "static/mathjax/es5" / mathjax_path)]
html_css_files = ["site.css"]


def read(app, page, source):
    """The README gets the side bar; a notebook's first code cell and its long outputs are folded."""
    if page == root_doc:
        source[0] += SIDE_BAR
    elif page.startswith("notebooks/"):
        notebook = json.loads(source[0])
        code = [cell["metadata"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for metadata in code:
            if metadata.get("jupyter", {}).get("outputs_hidden"):
                metadata["tags"] = ["hide-output"]
        code[0]["tags"] = ["hide-cell"]
        source[0] = json.dumps(notebook)


def setup(app):
    app.connect("source-read", read)
