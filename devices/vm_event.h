/* What a device may ask of the whole machine. */
#ifndef DEVICES_VM_EVENT_H
#define DEVICES_VM_EVENT_H

enum vm_event {
	VM_EVENT_NONE,
	VM_EVENT_POWEROFF, /* the guest switched itself off */
	VM_EVENT_RESET,	   /* the guest asked for a reset */
	VM_EVENT_PANIC,	   /* the guest reported a panic */
	VM_EVENT_CRASH,	   /* triple fault or KVM internal error */
	VM_EVENT_QUIT,	   /* the user asked to end (escape key, SIGTERM, SIGINT) */
	VM_EVENT_REFUSED,  /* the policy lets it run no longer */
	VM_EVENT_FAILED,   /* the VMM itself met an error that it cannot go on from */
	VM_EVENTS	   /* how many there are */
};

/* Where devices send them; the VMM implements it, tests count calls. */
struct vm_event_sink {
	/** raise - may be called from any thread; returns at once, the machine acts soon after */
	void (*raise)(struct vm_event_sink *sink, enum vm_event event);
};

#endif
