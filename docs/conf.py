"""How Sphinx builds these pages: ``make docs``. Nothing is fetched from anywhere for it."""

from __future__ import annotations

import numpydoc.xref

import altlas_flow
from altlas_flow import errors
from altlas_flow._version import __version__

project = "altlas_flow"
author = "altlas_flow developers"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**/.*"]

# -- Markdown: headings are targets as on code hosts, so that links work in both places
myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]

# -- the reference: our docstrings are numpydoc, and say the types themselves
default_role = "py:obj"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {
    "members": True,
    # what they have of others is in the documentation of these
    "inherited-members": "BaseModel,ABC,Protocol,BaseException,Mapping,Sequence,str,tuple,list,dict,object",
    "exclude-members": "model_config",
}
numpydoc_show_class_members = False
# types of parameters lead to what is ours, and are words otherwise: lists of Python's are not fetched
numpydoc.xref.DEFAULT_LINKS.clear()
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"
numpydoc_xref_aliases = {
    **{name: f"altlas_flow.errors.{name}" for name in errors.__all__ if name[0].isupper()},
    **{name: f"altlas_flow.{name}" for name in altlas_flow.__all__ if name[0].isupper()},
    "AltlasError": "altlas_flow.errors.AltlasError",
}

# -- every name of ours that is referred to has to be there; the others have pages of their own elsewhere,
#    and no list of them is fetched
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!altlas_flow\.).*")]

# -- pages
html_theme = "furo"
html_title = f"altlas_flow {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
copybutton_prompt_text = "$ "
