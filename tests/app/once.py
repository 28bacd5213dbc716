"""Imported by whatever draws many pages with AppTest: each looks through all installed packages for components, which
takes half a second, and none is installed meanwhile."""

from __future__ import annotations

from functools import cache

from streamlit.components.v2 import manifest_scanner

manifest_scanner.scan_component_manifests = cache(manifest_scanner.scan_component_manifests)
