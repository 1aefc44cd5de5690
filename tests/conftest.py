"""The options and fixtures of every tier; see tests/kafka."""

pytest_plugins = ["tests.kafka.fixtures"]
