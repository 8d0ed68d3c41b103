"""Pages and pictures about repairs and searches."""
