/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON lines on stdout, one event a line, flushed at once: what was said before a crash stays said.
 *
 *   json_open("test"); json_str("name", n); json_bool("ok", true); json_close();
 */
#ifndef KERNLOOP_JSON_H
#define KERNLOOP_JSON_H

#include <stdbool.h>
#include <stddef.h>

void json_open(const char *event);
void json_close(void);

/* A key of NULL writes a bare array element. */
void json_str(const char *key, const char *value);
void json_mem(const char *key, const char *value, size_t len);
void json_int(const char *key, long long value);
void json_uint(const char *key, unsigned long long value);
void json_num(const char *key, double value);
void json_bool(const char *key, bool value);

void json_begin(const char *key, char bracket);
void json_end(char bracket);

#endif
