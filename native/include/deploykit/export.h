// Marks what libdeploykit_engine exports; everything else is hidden.
#pragma once

#define DEPLOYKIT_EXPORT __attribute__((visibility("default")))
