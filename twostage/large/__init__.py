"""Pictures that are too large for one look: tiles with overlap, joined as scores; GeoTIFF in and out."""
