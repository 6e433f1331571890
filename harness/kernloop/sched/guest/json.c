// SPDX-License-Identifier: Apache-2.0
#include "json.h"

#include <stdio.h>
#include <string.h>

static bool first;

static void escape(const char *text, size_t len);

static void lead(const char *key)
{
	if (!first)
		putchar(',');
	first = false;
	if (key) {
		escape(key, strlen(key));
		putchar(':');
	}
}

/* Length of the valid UTF-8 sequence at s, 0 when it is not one. */
static size_t utf8_len(const unsigned char *s, size_t left)
{
	size_t want = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 :
		      s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;

	if (!want || want > left)
		return 0;
	for (size_t i = 1; i < want; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	/* Overlong forms, UTF-16 surrogates and values over 0x10ffff are not text either. */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
	    (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return want;
}

/* Bytes that are not UTF-8 (BPF can put anything into a message) come out as the readable text \xNN. */
static void escape(const char *text, size_t len)
{
	const unsigned char *s = (const unsigned char *)text;

	putchar('"');
	for (size_t i = 0; i < len;) {
		size_t n = utf8_len(s + i, len - i);

		if (!n)
			printf("\\\\x%02x", s[i++]);
		else if (n > 1)
			i += fwrite(s + i, 1, n, stdout);
		else if (s[i] == '"' || s[i] == '\\')
			printf("\\%c", s[i++]);
		else if (s[i] == '\n')
			i++, fputs("\\n", stdout);
		else if (s[i] == '\t')
			i++, fputs("\\t", stdout);
		else if (s[i] < 0x20 || s[i] == 0x7f)
			printf("\\u%04x", s[i++]);
		else
			putchar(s[i++]);
	}
	putchar('"');
}

void json_open(const char *event)
{
	putchar('{');
	first = true;
	json_str("event", event);
}

void json_close(void)
{
	puts("}");
	fflush(stdout);
}

void json_mem(const char *key, const char *value, size_t len)
{
	lead(key);
	escape(value, len);
}

void json_str(const char *key, const char *value)
{
	json_mem(key, value, strlen(value));
}

void json_int(const char *key, long long value)
{
	lead(key);
	printf("%lld", value);
}

void json_uint(const char *key, unsigned long long value)
{
	lead(key);
	printf("%llu", value);
}

void json_num(const char *key, double value)
{
	lead(key);
	printf("%.*f", value == (long long)value ? 0 : 3, value);
}

void json_bool(const char *key, bool value)
{
	lead(key);
	fputs(value ? "true" : "false", stdout);
}

void json_begin(const char *key, char bracket)
{
	lead(key);
	putchar(bracket);
	first = true;
}

void json_end(char bracket)
{
	putchar(bracket);
	first = false;
}
