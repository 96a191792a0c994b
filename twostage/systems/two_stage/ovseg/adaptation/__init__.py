"""Adapting CLIP to masked pictures (OVSeg, Liang et al., CVPR 2023, sections 3.2 and 3.3): pairs, training, accuracy."""
