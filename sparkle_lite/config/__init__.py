"""The configuration: a TOML file and environment variables, read into frozen structs.

`load` reads a file, `given` tells which keys it sets and `source` where; which keys there are says the schema that they
are handed: Config, with what others add to it. `show` writes the effective configuration, `restart_needed` tells what a
reload can't change. Every mistake is collected and reported together, each as a line with its place, key, reason and
hint.

Every key can be set by an environment variable: SPARKLE_<SECTION>__<KEY>, nested tables joined by two underscores
(SPARKLE_AUTH__GITHUB__CLIENT_ID), lists of tables as SPARKLE_RULES, SPARKLE_EXCEPTIONS and
SPARKLE_IMPORTS. The environment wins over
the file. An unknown SPARKLE_ name with two underscores is a mistake; one without (SPARKLE_HOME) is somebody else's and
ignored, so a variable misspelt with a single underscore goes unnoticed.
"""

from sparkle_lite.config.keys import (
    LONGEST_PULL_MS,
    MEMBER_MS,
    WIDEST,
    Abilities,
    Ability,
    AnalysisSection,
    AuthSection,
    BtnSection,
    Config,
    DatabaseSection,
    FeedsSection,
    GitHubSection,
    ImportEntry,
    LimitsSection,
    ListFormat,
    MetricsSection,
    Preset,
    ProofOfWorkSection,
    RetentionSection,
    RuleEntry,
    RuleType,
    ServerSection,
)
from sparkle_lite.config.places import Key, Source, explain
from sparkle_lite.config.reading import given, load, parse, source
from sparkle_lite.config.values import Duration, ListURL, Refused, Secret, Size
from sparkle_lite.config.writing import restart_needed, show

__all__ = [
    "LONGEST_PULL_MS",
    "MEMBER_MS",
    "WIDEST",
    "Abilities",
    "Ability",
    "AnalysisSection",
    "AuthSection",
    "BtnSection",
    "Config",
    "DatabaseSection",
    "Duration",
    "FeedsSection",
    "GitHubSection",
    "ImportEntry",
    "Key",
    "LimitsSection",
    "ListFormat",
    "ListURL",
    "MetricsSection",
    "Preset",
    "ProofOfWorkSection",
    "Refused",
    "RetentionSection",
    "RuleEntry",
    "RuleType",
    "Secret",
    "ServerSection",
    "Size",
    "Source",
    "explain",
    "given",
    "load",
    "parse",
    "restart_needed",
    "show",
    "source",
]
