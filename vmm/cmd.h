/* The subcommands of testudo; each gets argv from its own name on and returns an exit code. */
#ifndef VMM_CMD_H
#define VMM_CMD_H

/** cmd_run - boot a guest and wait until it ends; a signal that ended it is raised again */
int cmd_run(int argc, char **argv);

/** cmd_host - print what this host is, for people or as a fact file */
int cmd_host(int argc, char **argv);

/** cmd_policy - look for mistakes in a policy, or tell what it means on a host */
int cmd_policy(int argc, char **argv);

/** cmd_list, cmd_stat - the guests that run; one of them */
int cmd_list(int argc, char **argv);
int cmd_stat(int argc, char **argv);

/** cmd_pause, cmd_resume, cmd_stop - what can be done with a running guest */
int cmd_pause(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_stop(int argc, char **argv);
/** cmd_migrate - move a running guest to another process */
int cmd_migrate(int argc, char **argv);
/** cmd_save - write a running guest into a file */
int cmd_save(int argc, char **argv);

#endif
