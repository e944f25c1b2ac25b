"""Files of chats as people have them: what each is, and its rows one by one."""
