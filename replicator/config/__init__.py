"""Settings: a YAML file, overridden by the environment, then by flags; an error names the path of the wrong key.

    clusters.<alias>                 ClusterSettings
    clusters.<alias>.security        SecuritySettings, with oauth: OAuthSettings
    flows.<source>-><target>         FlowSettings
    worker, http, log                settings of one process

The environment overrides the file: ``REPLICATOR_CLUSTERS__WEST__SECURITY__PASSWORD`` is
``clusters.west.security.password``.

Read first: `settings`, then `cluster_settings`; `file` reads them and reports what is wrong.
"""

from replicator.config.cluster_settings import OWNED_PROPERTIES, ClusterSettings, OAuthSettings, SecuritySettings
from replicator.config.file import ENVIRONMENT_FILE, MASK, build, config_file, load, shown
from replicator.config.settings import (
    Flow,
    FlowSettings,
    HooksSettings,
    HttpSettings,
    LogSettings,
    Settings,
    WorkerSettings,
)

__all__ = [
    "ENVIRONMENT_FILE",
    "MASK",
    "OWNED_PROPERTIES",
    "ClusterSettings",
    "Flow",
    "FlowSettings",
    "HooksSettings",
    "HttpSettings",
    "LogSettings",
    "OAuthSettings",
    "SecuritySettings",
    "Settings",
    "WorkerSettings",
    "build",
    "config_file",
    "load",
    "shown",
]
