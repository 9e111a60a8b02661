"""Work spread over a Ray cluster: segments of a video, or pictures. Needs Ray (the extra `ray`)."""
