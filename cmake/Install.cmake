# `cmake --install BUILD --prefix DIR` gives a folder that can be moved to another machine that has torch 2.11.0:
# bin/qlora, a launcher that finds torch; lib/qlora/, the program and the shared libraries that are not torch's.
set_target_properties(qlora PROPERTIES INSTALL_RPATH "$ORIGIN")

# The C and C++ run-time libraries are every machine's own; torch's and CUDA's come with torch.
install(TARGETS qlora
  RUNTIME_DEPENDENCIES
    DIRECTORIES "${QLORA_TORCH}/lib"
    PRE_EXCLUDE_REGEXES "^lib(c|m|dl|rt|util|pthread|resolv|stdc\\+\\+|gcc_s|gomp)\\.so" "^ld-linux"
      "^lib(torch|c10|cuda|cublas|cupti|cudnn|nccl|nvidia)"
  RUNTIME DESTINATION lib/qlora
  LIBRARY DESTINATION lib/qlora)

set(QLORA_TORCH_VERSION 2.11.0)
configure_file("${PROJECT_SOURCE_DIR}/cmake/launcher.sh.in" launcher.sh @ONLY)
install(PROGRAMS "${PROJECT_BINARY_DIR}/launcher.sh" DESTINATION bin RENAME qlora)
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" "${PROJECT_SOURCE_DIR}/README.md" DESTINATION share/qlora)
install(DIRECTORY "${PROJECT_SOURCE_DIR}/configs" DESTINATION share/qlora FILES_MATCHING PATTERN "*.yaml")
