// SPDX-License-Identifier: GPL-2.0-only
/*
 * Why a symbol has the value it has, told by the tree's own Kconfig parser: linked with the objects that the tree's
 * `conf` was made of (scripts/kconfig), so that each release's language is understood as that release does.
 *
 * kconfig_why CONFIG SYMBOL...    in the environment in which make runs conf; prints a JSON object a line
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lkc.h"

/* Deep enough for any chain that a person follows, and a guard against circles. */
#define DEPTH 6

static void quiet(const char *text)
{
	(void)text;
}

static void quoted(const char *text)
{
	putchar('"');
	for (; text && *text; text++) {
		if (*text == '"' || *text == '\\')
			printf("\\%c", *text);
		else if ((unsigned char)*text < ' ')
			printf("\\u%04x", *text);
		else
			putchar(*text);
	}
	putchar('"');
}

static void print_part(void *data, struct symbol *sym, const char *text)
{
	(void)data;
	for (; *text; text++)
		printf(*text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
	/* A number in a comparison is a symbol too, of no type; so is one that no file defines. */
	if (sym && sym->name && sym->type != S_UNKNOWN && !(sym->flags & SYMBOL_CONST))
		printf(" [=%s]", sym_get_string_value(sym));
}

static void print_expr(struct expr *e)
{
	putchar('"');
	expr_print(e, print_part, NULL, E_NONE);
	putchar('"');
}

static void explain(struct symbol *sym, tristate wanted, int depth);

/* The conjuncts of `e` that do not allow `wanted`, each with the story of its symbol. */
static int unmet(struct expr *e, tristate wanted, int depth, int count)
{
	if (!e || expr_calc_value(e) >= wanted)
		return count;
	if (e->type == E_AND) {
		count = unmet(e->left.expr, wanted, depth, count);
		return unmet(e->right.expr, wanted, depth, count);
	}
	printf("%s{\"expression\": ", count ? ", " : "");
	print_expr(e);
	if (e->type == E_SYMBOL && depth < DEPTH) {
		printf(", \"because\": ");
		explain(e->left.sym, wanted, depth + 1);
	}
	putchar('}');
	return count + 1;
}

/* Each `select` (an OR of them in rev_dep) that holds `sym` up now. */
static int selectors(struct expr *e, int count)
{
	if (!e || expr_calc_value(e) == no)
		return count;
	if (e->type == E_OR) {
		count = selectors(e->left.expr, count);
		return selectors(e->right.expr, count);
	}
	printf(count ? ", " : "");
	print_expr(e);
	return count + 1;
}

static const char *chosen_instead(struct symbol *sym)
{
	struct menu *choice = sym_get_choice_menu(sym), *member;

	if (!choice)
		return NULL;
	for (member = choice->list; member; member = member->next)
		if (member->sym && member->sym != sym && sym_get_tristate_value(member->sym) == yes)
			return member->sym->name;
	return NULL;
}

static void explain(struct symbol *sym, tristate wanted, int depth)
{
	struct property *prop;
	const char *chosen;
	int prompts = 0, count = 0;

	sym_calc_value(sym);
	printf("{\"symbol\": ");
	quoted(sym->name);
	printf(", \"type\": \"%s\", \"value\": ", sym_type_name(sym->type));
	quoted(sym->type == S_UNKNOWN ? "" : sym_get_string_value(sym));
	printf(", \"unmet\": [");
	for_all_prompts(sym, prop) {
		prompts++;
		count = unmet(prop->visible.expr, wanted, depth, count);
	}
	printf("], \"prompts\": %d", prompts);
	for_all_prompts(sym, prop) {
		printf(", \"prompt\": ");
		quoted(prop->text);
		printf(", \"file\": ");
		quoted(prop->filename);
		printf(", \"line\": %d", prop->lineno);
		break;
	}
	if (sym->dir_dep.expr) {
		printf(", \"depends\": ");
		print_expr(sym->dir_dep.expr);
	}
	printf(", \"selected_by\": [");
	selectors(sym->rev_dep.expr, 0);
	putchar(']');
	if (!prompts && sym->rev_dep.expr && depth == 0) {
		printf(", \"selectable_by\": ");
		print_expr(sym->rev_dep.expr);
	}
	chosen = chosen_instead(sym);
	if (chosen) {
		printf(", \"chosen\": ");
		quoted(chosen);
	}
	putchar('}');
}

int main(int argc, char *argv[])
{
	if (argc < 3)
		return 2;
	conf_set_message_callback(quiet);
	conf_parse("Kconfig");
	if (conf_read(argv[1]))
		return 1;
	for (int i = 2; i < argc; i++) {
		char *name = argv[i], *value = strchr(name, '=');
		struct symbol *sym;

		if (value)
			*value++ = '\0';
		sym = sym_find(name);
		if (sym && sym->type != S_UNKNOWN) {
			explain(sym, value && !strcmp(value, "m") ? mod : yes, 0);
		} else {
			printf("{\"symbol\": ");
			quoted(name);
			printf(", \"type\": \"\"}");
		}
		putchar('\n');
	}
	return 0;
}
