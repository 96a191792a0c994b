"""What a segmentation is asked for afterwards: shapes, COCO's json, files, pictures for notebooks."""
