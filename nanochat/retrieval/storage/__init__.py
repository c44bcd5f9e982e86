"""A knowledge base on disk, for readers: manifests, versions, locks, indexes."""
