"""The server. HTTP is one of its doors."""
