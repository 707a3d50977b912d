/*
 * Somebody who is no testudo at the other end, told by the first bytes: a browser on a migration
 * port, a QMP monitor or an SSH server where a destination was meant. Pure.
 */
#ifndef MIGRATION_WIRE_STRANGER_H
#define MIGRATION_WIRE_STRANGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STRANGER_MAX 128

/**
 * stranger_describe - what came, for a message: "'GET / HT' (HTTP)"
 * @bytes: the first @n of what came
 * @buf: filled, printable; what is no text is shown in hexadecimal
 * Return: true when it is text or of a protocol that is known: not a stream of testudo's, damaged
 */
bool stranger_describe(const uint8_t *bytes, size_t n, char buf[STRANGER_MAX]);

#endif
