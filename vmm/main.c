#include "vmm/cmd.h"
int main(void)
{
	return cmd_placeholder();
}
