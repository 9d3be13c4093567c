"""All analyses, and the keys of the configuration with a table for each of them.

An analysis is declared in its own file; here stands its name. The configuration knows none of them: whoever reads it
hands it `SCHEMA`.
"""

from collections.abc import Iterable, Mapping
from typing import cast

import msgspec

from sparkle_lite.analyses import (
    client_identity,
    concurrent_download,
    false_identity,
    multi_dial,
    over_download,
    untrusted_vote,
)
from sparkle_lite.analyses.analysis import Analysis
from sparkle_lite.config import AnalysisSection, Config

ANALYSES: Mapping[str, Analysis] = {
    analysis.name: analysis
    for analysis in (
        untrusted_vote.ANALYSIS,
        over_download.ANALYSIS,
        concurrent_download.ANALYSIS,
        false_identity.ANALYSIS,
        client_identity.ANALYSIS,
        multi_dial.ANALYSIS,
    )
}


def section_of(analyses: Iterable[Analysis]) -> type[AnalysisSection]:
    """The section [analysis] of the configuration with a table for each of these analyses."""
    tables = {analysis.name: _table_of(analysis) for analysis in analyses}
    fields = [(name, table, table()) for name, table in tables.items()]
    section = msgspec.defstruct("AnalysisSection", fields, bases=(AnalysisSection,), frozen=True, kw_only=True)
    return cast("type[AnalysisSection]", section)


def _table_of(analysis: Analysis) -> type[msgspec.Struct]:
    fields = [(key, number.annotation, number.unset) for key, number in analysis.keys.items()]
    return msgspec.defstruct(analysis.name, fields, frozen=True, kw_only=True)


def schema_of(analyses: Iterable[Analysis]) -> type[Config]:
    """The keys of the whole configuration with these analyses."""
    section = section_of(analyses)
    fields = [("analysis", section, section())]
    return cast("type[Config]", msgspec.defstruct("Config", fields, bases=(Config,), frozen=True, kw_only=True))


SCHEMA = schema_of(ANALYSES.values())
