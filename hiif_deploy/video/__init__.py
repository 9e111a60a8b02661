"""Video files: every stream kept, exact time stamps, resumable. Needs PyAV (the extra `video`)."""
