#include "check.h"
#include "status.h"

int main(void) {
    CHECK(strcmp(forerun_version(), FORERUN_VERSION) == 0);
    CHECK(strcmp(forerun_status_name(FORERUN_BUNDLE_ERROR), "bundle error") == 0);
    CHECK(strcmp(forerun_status_name((forerun_status)99), "unknown status") == 0);
    for (int i = 0; i <= FORERUN_BACKEND_ERROR; i++)
        CHECK(strcmp(forerun_status_name((forerun_status)i), "unknown status") != 0);

    CHECK(fr_fail(NULL, FORERUN_FILE_ERROR, "%d", 1) == FORERUN_FILE_ERROR);
    forerun_error error;
    CHECK(fr_fail(&error, FORERUN_FILE_ERROR, "a\nb %d", 7) == FORERUN_FILE_ERROR);
    CHECK(error.status == FORERUN_FILE_ERROR && strcmp(error.message, "a b 7") == 0);

    /* A message that does not fit is cut between characters: 1021 bytes, then a character of three. */
    char text[1100];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    memcpy(text + 1021, "\xE6\xBC\xA2 and more", 11);
    fr_fail(&error, FORERUN_FILE_ERROR, "%s", text);
    CHECK_INT(strlen(error.message), 1021);
    memcpy(text + 1020, "\xE6\xBC\xA2 and more", 11); /* here it just fits */
    fr_fail(&error, FORERUN_FILE_ERROR, "%s", text);
    CHECK_INT(strlen(error.message), 1023);
    return check_failures != 0;
}
