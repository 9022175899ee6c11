"""The redactor of one site: the built-in rules, and what its configuration adds to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.capture.redact.redactor import Redactor
from edge_agent.capture.redact.telephone_numbers import is_known_region
from edge_agent.errors import ConfigInvalid

if TYPE_CHECKING:
    from edge_agent.config import Config


def build_redactor(config: Config) -> Redactor:
    """Compile the rules of a site.

    Raises:
        ConfigInvalid: a pattern of the site is invalid, a region of telephone numbers is unknown, or the pipeline of
            names cannot be loaded.
    """
    patterns, pipeline = config.examples.site_rules, config.examples.presidio_pipeline
    regions = config.examples.phone_regions
    for region in regions:
        if not is_known_region(region):
            raise ConfigInvalid(
                f"examples.phone_regions: there is no telephone numbering plan of {region}",
                remedy="Use the code of a country of ISO 3166-1, such as GB, DE or US.",
            )
    if not patterns and not pipeline:
        return Redactor(phone_regions=regions)
    # Only a site with detectors of its own loads what runs them.
    from edge_agent.capture.redact.site_detectors import name_detector, site_rules  # noqa: PLC0415

    return Redactor(site_rules(patterns), name_detector(Path(pipeline)) if pipeline else None, regions)
