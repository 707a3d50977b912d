#include "vmm/cmd.h"
int cmd_placeholder(void)
{
	return 0;
}
