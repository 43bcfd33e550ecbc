"""How `make docs` builds these pages. Nothing is fetched while building, nor by the pages."""

project = "kaggle-hw4"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
