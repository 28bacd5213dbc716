"""Lessons: one folder each, `NN_slug/lesson.md`, found by glob. See README, "Add a lesson"."""
