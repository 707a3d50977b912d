/* MSRs that only exit handling needs: numbers and bits, SDM vol.4 and AMD APM vol.2 3.1.7. */
#ifndef VMM_MSR_MORE_H
#define VMM_MSR_MORE_H

#include <stdint.h>

#define MSR_IA32_PRED_CMD 0x049
#define MSR_EFER	  0xc0000080

#define PRED_CMD_IBPB (UINT64_C(1) << 0)

#define EFER_SCE (UINT64_C(1) << 0)
#define EFER_LME (UINT64_C(1) << 8)
#define EFER_LMA (UINT64_C(1) << 10)
#define EFER_NXE (UINT64_C(1) << 11)

#endif
