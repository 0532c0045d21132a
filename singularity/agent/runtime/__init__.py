"""How a rank is contained: a sandbox of namespaces, an address of its own, limits."""
