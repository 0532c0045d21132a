"""The data path of inference services: one reverse proxy per region."""
