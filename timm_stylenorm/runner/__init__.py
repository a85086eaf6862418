"""What mmengine's Runner needs of both hosts, segmentation and classification; it imports mmengine."""
