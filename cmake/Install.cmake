# `cmake --install BUILD --prefix DIR` gives a folder that can be moved to another machine that has torch.
install(TARGETS qlora RUNTIME DESTINATION bin)
