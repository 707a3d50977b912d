/*
 * The guest's devices, for its ACPI interpreter. Runs through the C preprocessor before iasl, which
 * has no macros with arguments of its own. iasl cannot fold arithmetic inside a resource descriptor
 * (20200925 accepts it and emits corrupt AML), so addresses that are computed are computed in a
 * method.
 */
#include "vmm/layout.h"

#define VIRTIO_SLOT(name, n) \
	Device (name) \
	{ \
		Name (_HID, "LNRO0005") \
		Name (_UID, n) \
		Method (_STA) { Return (VSTA (n)) } \
		Method (_CRS) { Return (VCRS (n)) } \
	}

DefinitionBlock ("", "DSDT", 2, "TSTUDO", "TESTUDO", 1)
{
	/* the sleep type that the guest writes to LAYOUT_PORT_SLEEP to power off */
	Name (\_S5, Package () { 5, 0, 0, 0 })

	Scope (\_SB)
	{
		Device (COM1)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, 0)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, LAYOUT_PORT_COM1, LAYOUT_PORT_COM1, 1, 8)
				Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { LAYOUT_GSI_COM1 }
			})
		}

		/* the power button: its interrupt is an event, and the event a press */
		Device (PWRB)
		{
			Name (_HID, EisaId ("PNP0C0C"))
			Name (_UID, 0)
		}
		Device (GED)
		{
			Name (_HID, "ACPI0013")
			Name (_UID, 0)
			Name (_CRS, ResourceTemplate ()
			{
				Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { LAYOUT_GSI_BUTTON }
			})
			Method (_EVT, 1, Serialized)
			{
				If (Arg0 == LAYOUT_GSI_BUTTON) { Notify (PWRB, 0x80) }
			}
		}

		/* pvpanic: Linux takes the port from here and asks it for its events */
		Device (PEVT)
		{
			Name (_HID, "QEMU0001")
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, LAYOUT_PORT_PVPANIC, LAYOUT_PORT_PVPANIC, 1, 1)
			})
		}

		/* which virtio slots hold a device: written once by acpi_build() */
		OperationRegion (SLTR, SystemMemory, LAYOUT_ACPI_SLOTS, 4)
		Field (SLTR, DWordAcc, NoLock, Preserve) { SLTS, 32 }

		Method (VSTA, 1)
		{
			If (SLTS & (1 << Arg0)) { Return (0x0f) }
			Return (0)
		}

		Name (VTPL, ResourceTemplate ()
		{
			Memory32Fixed (ReadWrite, 0, LAYOUT_VIRTIO_SIZE, REGS)
			Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, , , LINE) { 0 }
		})
		/* fills in a copy: two devices may be asked at the same time */
		Method (VCRS, 1, Serialized)
		{
			Local0 = VTPL
			CreateDWordField (Local0, ^REGS._BAS, BASE)
			CreateDWordField (Local0, ^LINE._INT, GSI)
			BASE = LAYOUT_VIRTIO_BASE + Arg0 * LAYOUT_VIRTIO_SIZE
			GSI = LAYOUT_VIRTIO_GSI + Arg0
			Return (Local0)
		}

		/* LAYOUT_VIRTIO_SLOTS of them */
		VIRTIO_SLOT (VR00, 0)
		VIRTIO_SLOT (VR01, 1)
		VIRTIO_SLOT (VR02, 2)
		VIRTIO_SLOT (VR03, 3)
		VIRTIO_SLOT (VR04, 4)
		VIRTIO_SLOT (VR05, 5)
		VIRTIO_SLOT (VR06, 6)
		VIRTIO_SLOT (VR07, 7)
		VIRTIO_SLOT (VR08, 8)
		VIRTIO_SLOT (VR09, 9)
		VIRTIO_SLOT (VR10, 10)
		VIRTIO_SLOT (VR11, 11)
		VIRTIO_SLOT (VR12, 12)
		VIRTIO_SLOT (VR13, 13)
		VIRTIO_SLOT (VR14, 14)
		VIRTIO_SLOT (VR15, 15)
		VIRTIO_SLOT (VR16, 16)
		VIRTIO_SLOT (VR17, 17)
		VIRTIO_SLOT (VR18, 18)
	}
}
