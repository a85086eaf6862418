"""Tests of what needs timm alone; they run where mmengine is not installed."""
