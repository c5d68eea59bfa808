"""An app with a custom user model."""
