#include "msr/backend_kind.h"

const char *backend_name(enum backend_kind kind)
{
	switch (kind) {
	case BACKEND_MSR_FILTER:
		return "msr-filter";
	case BACKEND_FORCE_SPEC_CTRL:
		return "force-spec-ctrl";
	case BACKEND_FORCE_SPEC_CTRL_VM:
		return "force-spec-ctrl, virtual MSRs in KVM";
	case BACKEND_FORCE_VCPU:
		return "force-spec-ctrl per vCPU";
	case BACKEND_NONE:
		break;
	}
	return "none";
}
