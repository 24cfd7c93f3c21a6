"""The ``samix`` command: one file per subcommand."""
