int cmd_placeholder(void);
