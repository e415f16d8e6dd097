"""Native code through TVM."""
