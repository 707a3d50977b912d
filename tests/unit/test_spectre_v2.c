#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <errno.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "msr/spec_ctrl.h"
#include "tools/guest-report/spectre_v2.h"

#define SEQ MITIGATION_BHB_CLEAR_SEQ_S
#define RET MITIGATION_RETPOLINE_S

/* As real kernels write it, 4.15 to 6.18, and all forms of the BHI part. */
static const struct {
	const char *text;
	uint64_t bits;
} texts[] = {
	{"Not affected\n", 0},
	{"Vulnerable\n", 0},
	{"Vulnerable; IBPB: disabled; STIBP: disabled; PBRSB-eIBRS: Not affected; BHI: Not "
	 "affected\n",
	 0},
	{"Vulnerable: eIBRS with unprivileged eBPF\n", 0},
	{"Vulnerable: LFENCE; IBPB: conditional; RSB filling; BHI: Not affected\n", RET},
	{"Vulnerable: Minimal generic ASM retpoline\n", RET},
	{"Mitigation: Full generic retpoline, IBPB: conditional, IBRS_FW, STIBP: conditional, RSB "
	 "filling\n",
	 RET},
	{"Mitigation: Full AMD retpoline, IBPB: conditional\n", RET},
	{"Mitigation: Retpolines; IBPB: conditional; IBRS_FW; STIBP: conditional; RSB filling; "
	 "PBRSB-eIBRS: Not affected; BHI: Not affected\n",
	 RET},
	{"Mitigation: Retpolines; IBPB: conditional; RSB filling; PBRSB-eIBRS: Not affected; BHI: "
	 "Retpoline\n",
	 RET},
	{"Mitigation: Retpolines; IBPB: conditional; RSB filling; PBRSB-eIBRS: Not affected; BHI: "
	 "SW "
	 "loop, KVM: SW loop\n",
	 RET | SEQ},
	{"Mitigation: IBRS; IBPB: conditional; STIBP: conditional; RSB filling; PBRSB-eIBRS: Not "
	 "affected; BHI: SW loop, KVM: SW loop\n",
	 SEQ},
	{"Mitigation: Enhanced IBRS, IBPB: conditional, RSB filling, PBRSB-eIBRS: SW sequence\n",
	 0},
	{"Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; RSB filling; PBRSB-eIBRS: SW "
	 "sequence; BHI: SW loop, KVM: SW loop\n",
	 SEQ},
	{"Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; RSB filling; PBRSB-eIBRS: SW "
	 "sequence; BHI: SW loop, KVM SW loop\n",
	 SEQ},
	{"Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; PBRSB-eIBRS: Not affected; "
	 "BHI: "
	 "BHI_DIS_S\n",
	 0},
	{"Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; BHI: Vulnerable, KVM: SW "
	 "loop\n",
	 0},
	{"Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; BHI: Vulnerable\n", 0},
	{"Mitigation: Enhanced / Automatic IBRS; IBPB: always-on; STIBP: always-on; BHI: SW loop, "
	 "KVM: SW loop",
	 SEQ},
	{"Mitigation: Enhanced / Automatic IBRS + Retpolines; IBPB: conditional; BHI: Retpoline\n",
	 RET},
	{"Mitigation: Enhanced / Automatic IBRS + LFENCE; IBPB: conditional; BHI: SW loop, KVM: SW "
	 "loop\n",
	 RET | SEQ},
	/* a word of another part is not the kernel's own mitigation */
	{"Mitigation: Enhanced / Automatic IBRS; BHI: Retpoline\n", 0},
};

static const char *const others[] = {"", "\n", "BHI: SW loop", "Unknown: what\n",
				     "mitigation: IBRS\n"};

static void test_texts(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(texts); i++) {
		uint64_t bits = 99;

		if (spectre_v2_report(texts[i].text, &bits) != 0 || bits != texts[i].bits)
			fail_msg("%s gives %#llx", texts[i].text, (unsigned long long)bits);
	}
}

static void test_other_texts(void **state)
{
	uint64_t bits;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(others); i++)
		if (spectre_v2_report(others[i], &bits) != -EINVAL)
			fail_msg("'%s' is taken", others[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_texts),
		cmocka_unit_test(test_other_texts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
