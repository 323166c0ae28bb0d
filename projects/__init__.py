"""Projects built on mmvanilla."""
