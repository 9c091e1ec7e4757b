"""The forerun toolchain: from a target model and its drafter to one bundle."""

__version__ = "0.1.0"
